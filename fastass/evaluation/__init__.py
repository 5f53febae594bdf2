"""What a trained network is worth: IoU, statistics of the norms, class centroids."""
