#!/usr/bin/env bash
# The six best configurations of Grazzi et al. 2023, Table 4, at seeds 2/2 on MNIST; prints one JSON object each.
set -euo pipefail
run() { harness trial data_poisoning "$@" --budget 2000000 --seed 2 --data-seed 2 --json; }
run stocbio lower_steps=418 system_steps=2477 upper_step_size=1e6 lower_step_size=5.4e-3 system_step_size=1.3e-2
run amigo lower_steps=155 upper_step_size=1e7 lower_step_size=1.1e-2
run bsgm lower_steps=287 upper_step_size=4e8 lower_step_size=9e-2
run alset_dagger_det upper_step_size=1.8e5 lower_step_size=5.6e-1
run alset_dagger upper_step_size=1.6e6 lower_step_size=5.3e-2 system_step_size=3.9e-1
run alset system_steps=85 upper_step_size=5.5e8 lower_step_size=2e-2 system_step_size=2.7e-1
