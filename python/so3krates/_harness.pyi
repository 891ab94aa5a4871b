# The extension module of csrc/harness, for type checkers; its docstrings are in the C++.
from typing import Any

def __getattr__(name: str) -> Any: ...
