# The backend floor: the table, and the CPU that fills it. cpu/isa/*.c are compiled once per instruction set; the choice is made at
# run time (cpu/dispatch.c), so the build never depends on the machine it runs on.
rv_floor(backend FLOORS base LIBS Threads::Threads)
file(GLOB cpu_sources CONFIGURE_DEPENDS src/backend/cpu/*.c)
file(GLOB isa_sources CONFIGURE_DEPENDS src/backend/cpu/isa/*.c)
target_sources(rv_backend PRIVATE ${cpu_sources})
target_include_directories(rv_backend PRIVATE src/backend/cpu)

# No errno and no floating-point traps: vector code for sqrt and selects. Neither changes a value.
set(RV_KERNEL_FLAGS -O3 -fno-math-errno -fno-trapping-math)
if(RL4VLM_SANITIZE) # unrolled loops full of checks take minutes to compile
  set(RV_KERNEL_FLAGS -O1 -fno-math-errno -fno-trapping-math -DRV_SANITIZED)
endif()
target_compile_options(rv_backend PRIVATE ${RV_KERNEL_FLAGS})

function(rv_isa name)
  add_library(rv_isa_${name} OBJECT ${isa_sources})
  target_include_directories(rv_isa_${name} PRIVATE ${PROJECT_SOURCE_DIR}/src/base
    ${PROJECT_SOURCE_DIR}/src/backend ${PROJECT_SOURCE_DIR}/src/backend/cpu)
  target_compile_definitions(rv_isa_${name} PRIVATE RV_ISA=${name})
  target_compile_options(rv_isa_${name} PRIVATE ${RV_KERNEL_FLAGS} -Wno-psabi ${ARGN})
endfunction()

rv_isa(base)
target_sources(rv_backend PRIVATE $<TARGET_OBJECTS:rv_isa_base>)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(RV_AVX512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512)
  rv_isa(avx2 -mavx2 -mfma -mf16c)
  rv_isa(avx512 ${RV_AVX512})
  rv_isa(avx512bf16 ${RV_AVX512} -mavx512bf16)
  foreach(set avx2 avx512 avx512bf16)
    target_sources(rv_backend PRIVATE $<TARGET_OBJECTS:rv_isa_${set}>)
  endforeach()
  target_compile_definitions(rv_backend PRIVATE RV_X86)
endif()
