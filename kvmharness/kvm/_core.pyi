# cffi makes its types at run time: raw.py gives them shapes again.
from typing import Any

ffi: Any
lib: Any
