SECRET_KEY = "typing"
INSTALLED_APPS = ["shop"]
