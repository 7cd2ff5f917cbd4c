"""bilevel-harness: compare bilevel optimisation methods under one exact sample budget."""


def __getattr__(name: str) -> str:
    """`harness.__version__`, read when it is asked for: an import stays light."""
    if name != "__version__":
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from importlib.metadata import version

    return version("bilevel-harness")
