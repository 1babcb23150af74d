"""How `--kernels` is read: 'auto', 'off', or names with commas, of which 'auto' may be one."""

from __future__ import annotations


def named_kernels(request: str) -> list[str]:
    """`auto,int8-head` names `auto`, which brings what can run, and `int8-head`, which must."""
    return [name.strip() for name in request.split(",") if name.strip()]
