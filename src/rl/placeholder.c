// placeholder.c - replaced by the floor's first file.
typedef int rv_rl_placeholder;
