"""Any picture → 28×28, the way MNIST was made: decode → paper → ink → fit, in integer arithmetic."""
