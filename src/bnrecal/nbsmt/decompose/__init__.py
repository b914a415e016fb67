"""A layer's weights taken apart: operands, and the convolutions that they make."""
