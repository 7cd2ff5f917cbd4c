"""bilevel-harness: compare bilevel optimisation methods under one exact sample budget."""
