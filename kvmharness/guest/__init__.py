"""The guests: one VM with one assembled stub, loaded, proved and measured."""
