# For C and C++ users: headers, and find_package(warploom) with the target warploom::warploom. The
# wheel carries them too; it only lacks the unversioned link, because wheels hold no links.
include(CMakePackageConfigHelpers)
set(folder ${WARPLOOM_LIBRARY_FOLDER}/cmake/warploom)

if(SKBUILD)
  install(TARGETS warploom EXPORT warploom LIBRARY DESTINATION ${WARPLOOM_LIBRARY_FOLDER}
                                                   NAMELINK_SKIP)
else()
  install(TARGETS warploom EXPORT warploom LIBRARY DESTINATION ${WARPLOOM_LIBRARY_FOLDER})
endif()
install(DIRECTORY include/warploom DESTINATION include FILES_MATCHING PATTERN "*.h")
install(EXPORT warploom NAMESPACE warploom:: FILE warploomConfig.cmake DESTINATION ${folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/warploomConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/warploomConfigVersion.cmake DESTINATION ${folder})
