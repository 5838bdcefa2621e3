"""Errors by which memory that is full shows itself: of CUDA, of PyTorch's CPU allocator, of C++, of Python."""

OUT_OF_MEMORY = "out of memory"  # the first words of a row's note
SAID = (OUT_OF_MEMORY, "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator said that there is no more; those of PyTorch and C++ do so by a RuntimeError."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_out_of_memory(str(error)))


def says_out_of_memory(text: str) -> bool:
    """As is_out_of_memory, of what a process wrote."""
    return any(words in text.lower() for words in SAID)


def memory_note(error: BaseException) -> str:
    """For a row: what the error says first."""
    return f"{OUT_OF_MEMORY}: {str(error).partition(chr(10))[0]}".removesuffix(": ")
