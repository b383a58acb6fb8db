"""What people and other programs read: tables, reports, exports."""
