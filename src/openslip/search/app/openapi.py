def described(index, max_upload): return {}
