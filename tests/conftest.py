"""One thread, as in a worker: more would cut a product by its shape, and a pack differ from a lone trial."""

import torch

torch.set_num_threads(1)
