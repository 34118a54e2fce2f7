def check_environment(settings):
    pass
