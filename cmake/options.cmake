# What every target of ours is compiled with.
add_library(warploom_options INTERFACE)
target_include_directories(warploom_options INTERFACE ${PROJECT_SOURCE_DIR}/include
                                                      ${PROJECT_SOURCE_DIR}/csrc)
target_compile_options(warploom_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
if(WARPLOOM_SANITIZE)
  target_compile_options(warploom_options INTERFACE -fsanitize=${WARPLOOM_SANITIZE}
                                                    -fno-omit-frame-pointer)
  target_link_options(warploom_options INTERFACE -fsanitize=${WARPLOOM_SANITIZE})
endif()

# Everything is found beside everything else: the module, the core and the backends it opens.
set(WARPLOOM_LIBRARY_FOLDER lib)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)

# Symbols: only what cmake/exports.map names leaves a shared object of ours.
function(warploom_seal target)
  target_link_options(${target} PRIVATE
                      -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/exports.map)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/exports.map
                                             INSTALL_RPATH "$ORIGIN")
endfunction()
