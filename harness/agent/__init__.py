"""The part that runs on the device: standard library, numpy and one engine; nothing of `harness` outside this folder."""
