"""The runtime bundle: glibc, CPython and the engines in one relocatable folder, for devices that have none of it."""
