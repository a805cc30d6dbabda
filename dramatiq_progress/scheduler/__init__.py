"""The scheduler: sends what is due. Imported by ``manage.py runscheduler``, and in part by the system checks."""
