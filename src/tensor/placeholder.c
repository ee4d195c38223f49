// placeholder.c - replaced by the floor's first file.
typedef int rv_tensor_placeholder;
