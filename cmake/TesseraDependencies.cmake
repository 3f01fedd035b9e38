# Every dependency is found on the system (scripts/setup.sh installs them) or in a prefix that
# scripts/local-deps.sh filled; nothing is downloaded.

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Threads REQUIRED)

# Any CBLAS can stand in for OpenBLAS.
find_path(TESSERA_CBLAS_INCLUDE cblas.h
          PATH_SUFFIXES x86_64-linux-gnu/openblas-openmp aarch64-linux-gnu/openblas-openmp
                        openblas-openmp openblas)
find_library(TESSERA_CBLAS_LIBRARY NAMES openblas cblas blas
             PATH_SUFFIXES x86_64-linux-gnu/openblas-openmp aarch64-linux-gnu/openblas-openmp
                           openblas-openmp)
if(NOT TESSERA_CBLAS_INCLUDE OR NOT TESSERA_CBLAS_LIBRARY)
  message(FATAL_ERROR "no CBLAS found; run scripts/setup.sh (Debian: libopenblas-openmp-dev)")
endif()
add_library(tessera_blas INTERFACE)
target_include_directories(tessera_blas SYSTEM INTERFACE ${TESSERA_CBLAS_INCLUDE})
target_link_libraries(tessera_blas INTERFACE ${TESSERA_CBLAS_LIBRARY})

find_path(TESSERA_STB_INCLUDE stb_image.h PATH_SUFFIXES stb REQUIRED)
add_library(tessera_stb INTERFACE)
target_include_directories(tessera_stb SYSTEM INTERFACE ${TESSERA_STB_INCLUDE})

find_path(TESSERA_UTF8PROC_INCLUDE utf8proc.h REQUIRED)
find_library(TESSERA_UTF8PROC_LIBRARY utf8proc REQUIRED)
add_library(utf8proc INTERFACE)
target_include_directories(utf8proc SYSTEM INTERFACE ${TESSERA_UTF8PROC_INCLUDE})
target_link_libraries(utf8proc INTERFACE ${TESSERA_UTF8PROC_LIBRARY})

find_package(CLI11 REQUIRED)
if(TESSERA_BUILD_TESTS)
  find_package(doctest REQUIRED)
endif()
