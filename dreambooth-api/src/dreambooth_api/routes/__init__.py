"""The HTTP side: each file a blueprint. Together with ``app`` the only modules here that import Flask."""
