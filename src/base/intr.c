#include "intr.h"

volatile sig_atomic_t rv_intr_flag = 0;
