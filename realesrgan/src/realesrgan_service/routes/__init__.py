"""The HTTP side. Together with ``app`` the only modules here that import Flask."""
