def save(a, b):
    pass
