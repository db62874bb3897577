package localpg

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Running tells how to connect to a database of the cluster that another process runs for a data directory, for a user who
// may use its socket.
func Running(dir, database string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, home := range []string{dir, elsewhere(dir)} {
		text, err := os.ReadFile(filepath.Join(home, "postgres", "postmaster.pid"))
		if err != nil {
			continue
		}
		// The fifth line is the directory of its socket.
		if lines := strings.Split(string(text), "\n"); len(lines) > 4 && lines[4] != "" {
			return (&Cluster{sockets: lines[4]}).URL(database), nil
		}
	}
	return "", fmt.Errorf("no private Postgres runs below %s, or this user may not see it", dir)
}
