"""BatchNorm statistics: sums in a fixed order, and their re-estimation."""
