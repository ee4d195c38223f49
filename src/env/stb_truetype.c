// stb_truetype.c - the third-party rasteriser, compiled on its own so that its warnings stay here.
#define STB_TRUETYPE_IMPLEMENTATION
#include <stb_truetype.h>
