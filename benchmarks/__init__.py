"""Side-by-side measurements that write the evidence in results/."""
