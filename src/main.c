// main.c - the program; all of it is in src/bind/host*.c.
#include "host.h"

int main(int argc, char **argv) { return rv_host_main(argc, argv); }
