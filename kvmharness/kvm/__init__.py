"""The KVM layer: one object a file descriptor, one method an ioctl, exits typed."""
