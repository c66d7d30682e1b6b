package inspect_test

import (
	"testing"

	"github.com/syncengine-go/syncengine/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
