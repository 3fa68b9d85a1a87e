"""
Twin models: Plain* with Django's manager and its neighbours with ours, the
same fields otherwise.
"""

from .always_models import *  # noqa: F403
from .bulk_models import *  # noqa: F403
from .cached_models import *  # noqa: F403
from .invalidation_models import *  # noqa: F403
from .lookup_path_models import *  # noqa: F403
from .neighbour_models import *  # noqa: F403
from .nonatomic_models import *  # noqa: F403
from .proof_models import *  # noqa: F403
from .statement_models import *  # noqa: F403
from .text_key_models import *  # noqa: F403
from .trigger_models import *  # noqa: F403
from .values_models import *  # noqa: F403
from .walk_models import *  # noqa: F403
