"""Many runs of one question: the same jobs on several processes, and what they prove."""
