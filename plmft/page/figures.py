"""Numbers as the page writes them: three significant digits, times and sizes in the unit that a reader expects."""


def figure(value: float) -> str:
    """Three significant digits; from 100 on without a fraction, from 10 million on in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) >= 1e7 or abs(value) < 1e-3:
        return f"{value:.2e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def score(value: float) -> str:
    """A metric: three decimals."""
    return f"{value:.3f}"


def duration(seconds: float) -> str:
    """In s below two minutes, then min, h, days."""
    for unit, size, below in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < below:
            return f"{figure(seconds / size)} {unit}"
    return f"{figure(seconds / 86_400)} days"


def memory(gigabytes: float) -> str:
    """10⁹ bytes, below one in MB."""
    return f"{figure(gigabytes)} GB" if gigabytes >= 1 else f"{figure(1000 * gigabytes)} MB"


def probability(p: float) -> str:
    """A p value; what 1,000 resamples cannot tell from less is said so."""
    return "< 0.01" if p < 0.01 else f"{p:.2f}"


def interval(ends: tuple[float, float] | None) -> str:
    """Both ends, or nothing."""
    return f"{score(ends[0])} to {score(ends[1])}" if ends else ""
