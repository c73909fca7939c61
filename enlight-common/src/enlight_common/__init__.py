"""What the Enlight services share: errors, ids, files, images, settings and the web layer."""
