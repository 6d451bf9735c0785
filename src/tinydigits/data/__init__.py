"""Where digits come from: MNIST, the embedded optdigits, a user's folder; preprocessing and augmentation."""
