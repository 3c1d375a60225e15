"""stub until Schedule arrives"""


def predicted_variance(evidence):
    return None
