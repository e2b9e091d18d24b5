"""The runtime bundle: glibc, CPython and the engines in one relocatable folder, for devices that have none of it.

`spec` says what goes in, `lock` pins it, `debian` and `wheels` fetch it, `assemble` and `trim` lay it out, `toolbox` compiles
and compresses, `archive` is the file on the host, `build` joins these; `deploy` brings a bundle to a device, `clean` takes
everything off it again.
"""
