"""The KVM layer: one object per file descriptor, one method per ioctl, exits typed."""
