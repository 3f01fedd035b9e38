# Installs BUILD into BUILD/install-test, then configures, builds and runs the project of this
# folder against it.
set(prefix ${BUILD}/install-test)
set(consumer ${BUILD}/install-test-consumer)
file(REMOVE_RECURSE ${prefix} ${consumer})
if(SANITIZE)
  set(flags "-fsanitize=${SANITIZE}")
endif()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN}\n${text}\nstatus ${status}")
  endif()
  set(text "${text}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR} -B ${consumer} -G ${GENERATOR}
    -DCMAKE_CXX_COMPILER=${COMPILER} "-DCMAKE_CXX_FLAGS=${flags}"
    "-DCMAKE_PREFIX_PATH=${prefix}\;${PREFIX_PATH}")
run(${CMAKE_COMMAND} --build ${consumer})
run(${consumer}/consumer)
if(NOT text MATCHES "of shape \\(2, 3\\)\ngradcheck: ok")
  message(FATAL_ERROR "the consumer printed: ${text}")
endif()
if(EXISTS ${prefix}/bin/tessera)
  run(${prefix}/bin/tessera --help)
endif()
