# cmake --install: headers as include/tessera/<folder>/x.h, the library, the program, and the
# package that find_package(tessera) reads, which gives the target tessera::tessera.

include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/tessera)

foreach(floor ${TESSERA_FLOORS})
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${floor}/*.h)
  if(headers)
    install(DIRECTORY ${floor} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/tessera
            FILES_MATCHING PATTERN "*.h")
  endif()
endforeach()

install(TARGETS tessera EXPORT tesseraTargets)
set_target_properties(tessera PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
if(TARGET tessera_program)
  install(TARGETS tessera_program)
  file(RELATIVE_PATH to_library ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(tessera_program PROPERTIES INSTALL_RPATH "$ORIGIN/${to_library}"
                        INSTALL_RPATH_USE_LINK_PATH ON)
endif()

install(EXPORT tesseraTargets NAMESPACE tessera:: DESTINATION ${package})
configure_package_config_file(cmake/tesseraConfig.cmake.in tesseraConfig.cmake
                              INSTALL_DESTINATION ${package})
write_basic_package_version_file(tesseraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tesseraConfig.cmake
              ${PROJECT_BINARY_DIR}/tesseraConfigVersion.cmake DESTINATION ${package})
