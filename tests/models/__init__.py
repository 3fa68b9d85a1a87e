"""
Twin models: Plain* with Django's manager and its neighbours with ours, the
same fields otherwise.
"""

from .always import *  # noqa: F403
from .bulk import *  # noqa: F403
from .cached import *  # noqa: F403
from .creatable import *  # noqa: F403
from .getting import *  # noqa: F403
from .invalidation import *  # noqa: F403
from .local import *  # noqa: F403
from .lookup_path import *  # noqa: F403
from .neighbours import *  # noqa: F403
from .nonatomic import *  # noqa: F403
from .proof import *  # noqa: F403
from .selects import *  # noqa: F403
from .statements import *  # noqa: F403
from .text_keys import *  # noqa: F403
from .triggers import *  # noqa: F403
from .values import *  # noqa: F403
from .walk import *  # noqa: F403
