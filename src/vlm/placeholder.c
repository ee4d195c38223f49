// placeholder.c - replaced by the first file of this floor.
typedef int rv_vlm_placeholder;
