# The CUDA language is enabled when the tree has .cu files and TESSERA_CUDA wants them: ON, or AUTO
# and there is an nvcc. Gives TESSERA_CUDA_SOURCES, empty in a build for the CPU only.

if(NOT TESSERA_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "TESSERA_CUDA is ${TESSERA_CUDA}; it must be AUTO, ON or OFF")
endif()

set(TESSERA_CUDA_SOURCES)
foreach(floor ${TESSERA_FLOORS})
  file(GLOB_RECURSE found CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${floor}/*.cu)
  list(APPEND TESSERA_CUDA_SOURCES ${found})
endforeach()

find_program(TESSERA_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin)
if(TESSERA_CUDA STREQUAL "OFF")
  set(TESSERA_CUDA_SOURCES)
elseif(TESSERA_CUDA STREQUAL "ON" AND NOT TESSERA_CUDA_SOURCES)
  message(FATAL_ERROR "TESSERA_CUDA=ON, but this version has no CUDA sources; use AUTO or OFF")
elseif(TESSERA_CUDA STREQUAL "ON" AND NOT TESSERA_NVCC)
  message(FATAL_ERROR "TESSERA_CUDA=ON, but nvcc was not found; set TESSERA_NVCC to its path")
elseif(NOT TESSERA_NVCC)
  message(STATUS "CUDA: no nvcc found: CPU only")
  set(TESSERA_CUDA_SOURCES)
elseif(NOT TESSERA_CUDA_SOURCES)
  message(STATUS "CUDA: found ${TESSERA_NVCC}, but this version has no CUDA sources: CPU only")
else()
  message(STATUS "CUDA: building with ${TESSERA_NVCC}")
  set(CMAKE_CUDA_COMPILER ${TESSERA_NVCC})
  add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)  # CMake 3.25 knows no CUDA20
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80 90)
  endif()
  enable_language(CUDA)
endif()
