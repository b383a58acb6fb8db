from kvmharness.cli import main

main()
