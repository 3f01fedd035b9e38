# Options, language level, warnings and the flags of numeric code.

set(TESSERA_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (when nvcc is found), ON or OFF")
set_property(CACHE TESSERA_CUDA PROPERTY STRINGS AUTO ON OFF)
option(TESSERA_NATIVE "Compile for this machine's processor only (-march=native)" OFF)
option(TESSERA_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(TESSERA_BUILD_BENCH "Build the benchmarks" OFF)
set(TESSERA_SANITIZE "" CACHE STRING "Sanitizers to build with: address, undefined, thread or a list")
option(TESSERA_FUZZ "Build the libFuzzer programs of tests/fuzz (clang)" OFF)
option(TESSERA_PRECOMPILE "Compile what most files include once: a faster build, but not through ccache" OFF)
option(TESSERA_WERROR "Treat warnings as errors" ${PROJECT_IS_TOP_LEVEL})

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT TESSERA_PRECOMPILE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

function(tessera_precompile target)
  if(TESSERA_PRECOMPILE)
    target_precompile_headers(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:${PROJECT_SOURCE_DIR}/cmake/precompiled.h>)
  endif()
endfunction()

set(processor)
if(TESSERA_NATIVE)
  set(processor -march=native)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(processor -march=x86-64-v3)
endif()
if(processor)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:${processor}> $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${processor}>)
endif()

if(TESSERA_SANITIZE)
  add_compile_options(-fsanitize=${TESSERA_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${TESSERA_SANITIZE})
endif()

if(TESSERA_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "TESSERA_FUZZ needs clang: -DCMAKE_CXX_COMPILER=clang++")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link,address -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address)
endif()

# Branch-free numeric code vectorises under these; -ffast-math stays off everywhere. GCC's redundancy
# elimination (pre) would evaluate ahead what follows from the constant side of a conditional, and
# so tie several conditionals into control flow that no longer vectorises.
set(TESSERA_KERNEL_FLAGS -fno-math-errno -fno-trapping-math)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND TESSERA_KERNEL_FLAGS -fvect-cost-model=dynamic -fno-tree-pre)
endif()

set(warnings -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-unknown-pragmas)
if(TESSERA_WERROR AND NOT TESSERA_PRECOMPILE) # GCC warns of its own headers that come precompiled
  list(APPEND warnings -Werror)
endif()
if(TESSERA_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # GCC sees uninitialised values in the instrumented code of its own headers.
  list(APPEND warnings -Wno-maybe-uninitialized)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  # Numeric code joins conditions with | and & on purpose: no branches.
  # A loop that clang does not vectorise is no error.
  list(APPEND warnings -Wno-bitwise-instead-of-logical -Wno-pass-failed)
endif()
add_library(tessera_warnings INTERFACE)
target_compile_options(tessera_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${warnings}>)
