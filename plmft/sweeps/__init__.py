"""Many runs under one parent: the jobs, where they run, searches, and the table that gathers them."""
