"""Operations that run by different code on different hardware. One folder an op; what the folder's `__init__` defines is what callers see."""
