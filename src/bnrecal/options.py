"""The values that settings may take, for everything that checks or offers them."""

THREADS = (1, 2, 4)
POLICIES = ("A", "Aw", "W", "aW")
BITS = (3, 4, 5)
ROUNDINGS = ("half_even", "floor")
REORDERS = ("none", "activity", "bits")
ACT_RANGES = ("mean_max", "max")
RECALIBRATION_METHODS = ("ema", "cumulative", "pooled")
FAMILIES = ("table1", "torchvision", "custom", "timm")
INTERPOLATIONS = ("bilinear", "bicubic", "area", "opencv_bilinear")
