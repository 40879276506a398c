"""What detectors are made of: suppression of boxes, scores of detections."""
