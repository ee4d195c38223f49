# The backend floor: the table, and the CPU that fills it. Kernels are compiled once per instruction set.
rv_floor(backend FLOORS base LIBS OpenMP::OpenMP_C)
file(GLOB cpu_sources CONFIGURE_DEPENDS src/backend/cpu/*.c)
target_sources(rv_backend PRIVATE ${cpu_sources})
target_include_directories(rv_backend PRIVATE src/backend/cpu)
target_compile_options(rv_backend PRIVATE -O3)
