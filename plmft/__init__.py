"""plmft: fine-tune and evaluate protein language models, with accuracy and cost in one table."""


class InputError(ValueError):
    """A user's mistake. Commands print its message alone, without a stack trace, and exit with 2.

    The message names the thing, the value, what is allowed, and the way out.
    """
